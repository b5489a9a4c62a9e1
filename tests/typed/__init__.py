"""Code that is not run but read by type checkers: `tests.unit.test_types` says what they must find."""
