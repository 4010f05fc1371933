"""The shipped templates, built for real and used as a person would use them."""
