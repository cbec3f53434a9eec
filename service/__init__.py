"""Online: loads a bundle and answers each row at the first exit that is sure enough."""

import os

# BentoML has prometheus_client keep metrics in files, for several workers. There is one, and the
# files would be deleted by the next server that the same user starts.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
