"""Writes bert_base_a100.json, a costs file for `offramp simulate`, from published latencies.

    python examples/planning/make.py

The latencies are of the whole model. How they fall on stages is an assumption: the twelve layers
of the encoder are equal, and an exit stands behind every third one.
"""

from __future__ import annotations

import json
from pathlib import Path

SOURCE = (
    "https://github.com/NVIDIA/TensorRT/blob/9973b2f4ab5c0d0055e9d36cd94a5692f8f8da1f/demo/BERT/"
    "README.md, 'Inference performance: NVIDIA A100 (40GB)', BERT base, sequence length 128, FP16, "
    "average latency, without copies between host and device"
)
ASSUMED = "four equal stages; heads and the joining of rows cost nothing"
STAGES = 4
LATENCY = {  # ms by rows per batch
    1: 0.62,
    2: 0.73,
    4: 0.93,
    8: 1.31,
    12: 1.72,
    16: 2.05,
    24: 3.01,
    32: 3.85,
    64: 7.55,
    128: 15.15,
}


def main() -> None:
    stage = [round(milliseconds / STAGES, 5) for milliseconds in LATENCY.values()]
    costs = {
        "machine": "BERT base, 128 tokens, FP16, TensorRT on an A100 (40 GB)",
        "source": SOURCE,
        "assumed": ASSUMED,
        "batch_rows": list(LATENCY),
        "stage_milliseconds": [stage] * STAGES,
        "whole_milliseconds": list(LATENCY.values()),
    }
    path = Path(__file__).parent / "bert_base_a100.json"
    path.write_text(json.dumps(costs, indent=2) + "\n")


if __name__ == "__main__":
    main()
