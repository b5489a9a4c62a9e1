"""The pool that claims within its limit, one job from claim to verdict, the job as its own code sees it."""
