"""Speed of dreams, of the emulator and of training, measured by turns."""
