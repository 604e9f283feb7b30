"""What a workspace tells of itself: runs, state, why a run would do something, whether expectations hold."""
