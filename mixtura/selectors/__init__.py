"""One file per selector; a recipe names it by its file stem."""
