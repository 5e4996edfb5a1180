"""One file per file format; a recipe names it by its file stem."""
