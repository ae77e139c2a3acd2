"""A process that measures jobs, one JSON line each on its standard input, and answers with rows.

Rows begin with ROW: whatever else is printed does not disturb them.
"""

import json
import platform
import sys
import time
import traceback
from dataclasses import asdict

MARK = "ROW "


def main() -> None:
    import torch

    from nqs.scripts.ablation.jobs import Job
    from nqs.scripts.ablation.questions import run

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        row = asdict(job)
        begin = time.time()
        try:
            row = run(job) | row  # what tells jobs apart stays
        except Exception as error:
            traceback.print_exc()
            row["failed"] = f"{type(error).__name__}: {error}"
        on_gpu = job.device.startswith("cuda")
        row["hardware"] = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
        row["began"], row["wall"] = begin, time.time() - begin
        print(MARK + json.dumps(row), flush=True)
        if on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
