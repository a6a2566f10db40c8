"""Presentation of the measures: tables, cards, plots, pictures, films."""
