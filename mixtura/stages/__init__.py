"""The stages of a curation, from files to a mixture: artefacts in, artefacts out. Runs without Prefect."""
