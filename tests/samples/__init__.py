"""Programs to be traced. Each function named ``case_...`` is one observable run: it returns or raises."""
