"""The devices and processes that train together, and how they compute."""
