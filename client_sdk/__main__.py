"""`python -m client_sdk` is `fedclient`."""

import sys

from client_sdk.cli import main

sys.exit(main())
