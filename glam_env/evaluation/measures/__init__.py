"""What is measured of dreams: each measure is a file."""
