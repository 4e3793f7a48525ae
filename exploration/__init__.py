"""Test suites of well-known packages, run untraced and traced: no test may come out differently."""
