"""`python -m actrix`."""

import sys

from actrix.cli import main

sys.exit(main())
