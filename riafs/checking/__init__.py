"""Reading everything a source holds, and saying what is damaged, missing, or not there as often as it should be."""
