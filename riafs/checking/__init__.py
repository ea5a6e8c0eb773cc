"""Reading everything a source holds, and reporting what is damaged, missing, or has too few copies."""
