"""The library: tables in, tables out. Imports neither flows nor selectors."""
