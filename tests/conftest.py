"""What holds for all tests."""

import os

# The models here are so small that a second thread costs more than it brings; read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
