"""How each file format is read; a row of the table in formats.py each."""
