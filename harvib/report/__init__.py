"""Figures for people: a table on the terminal, a page with plots."""
