"""What an early-exit model is: graph, heads, policy, bundle and the runtime of its stages."""

import os

# ONNX Runtime tells its maker about sessions and models, unless it is told not to
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
