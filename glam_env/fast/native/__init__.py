"""Dream steps and rendering in C++: sources, build and bindings."""
