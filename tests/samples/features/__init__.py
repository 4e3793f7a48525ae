"""One module for each way of defining, making or importing functions.

Each has ``use(see, value)``, which uses the feature once: the functions call ``see(value)`` from where they are, and
keep what it returns until they end. It may look around, raise, or use the feature again.
"""
