"""The test stores: real RIA stores made by DataLad, git-annex, git and 7z, and a manifest of what a reader must find.

Use the fixtures ``stores`` and ``hostile_store`` of ``tests/conftest.py``. See README.md beside this file.
"""
