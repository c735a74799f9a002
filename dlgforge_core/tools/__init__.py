"""Tools: what an assistant may call, who carries out the calls, and the state that they change."""
