"""Project settings and the train config: keys, checks, text form. Importing it imports no torch."""
