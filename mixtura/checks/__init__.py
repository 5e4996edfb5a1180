"""Checks of answers, one file each; a recipe names one by its file stem, a user's own comes by entry point."""
