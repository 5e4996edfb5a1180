"""One file per builder; a recipe names it by its file stem."""
