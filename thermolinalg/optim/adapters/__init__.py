"""Models of other libraries, tapped: import the module of the library by name."""
