"""Memory that the system gives to this process, page by page, as it is first written to."""

from __future__ import annotations

try:
    import resource
except ImportError:  # on Windows

    def pages_got() -> int:
        """Returns how many pages this process was given; 0 where that is not known."""
        return 0

else:

    def pages_got() -> int:
        """Returns how many pages this process was given; 0 where that is not known."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
