"""The matrix: every client format against every provider format, rehearsed on the simulator."""
