"""What a single recommendation imports: libraries that only the making of catalogs needs stay out of it."""

import subprocess
import sys


def test_inference_starts_without_what_only_tokenize_needs() -> None:
    code = "import sys, itemic.inference; print(*({'scipy.stats', 'scipy.optimize', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
