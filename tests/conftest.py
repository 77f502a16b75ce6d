"""What holds for all tests."""

import os
import signal

# For models this small a second thread costs more than it brings. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background jobs with Ctrl-C ignored, `nohup` with a hang-up ignored, and children
# inherit that: the tests that send either to one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
