"""What people see of the measures: tables, cards, plots, pictures, films."""
