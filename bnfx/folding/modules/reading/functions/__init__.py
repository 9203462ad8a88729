"""Functions and classes: what they hold, what their names stand for, and what they are given."""
