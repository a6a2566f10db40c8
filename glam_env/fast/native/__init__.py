"""The C++ of dreams: sources, build and bindings."""
