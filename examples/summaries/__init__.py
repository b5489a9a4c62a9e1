"""Write an abstract (L0) and an overview (L1) beside every document of a folder, as OpenViking does."""
