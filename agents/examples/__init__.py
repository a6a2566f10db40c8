"""Other libraries in dreams: one short, complete file for each."""
