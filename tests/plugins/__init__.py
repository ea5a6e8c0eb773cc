"""What the test run itself checks."""
