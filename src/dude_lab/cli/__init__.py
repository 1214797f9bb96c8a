"""The command line `dude`, and its exit codes."""

FAILED_RUNS = 1  # of a comparison: some runs failed or are missing
OUTPUT_CLOSED = 1  # nobody reads standard output any more; as click and rich do
USER_ERROR = 2
INTERRUPTED = 130  # by Ctrl-C or SIGTERM
