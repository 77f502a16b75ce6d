"""What holds for all tests."""

import os

# For models this small a second thread costs more than it brings. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
