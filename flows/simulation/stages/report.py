from tasks.report import finalize, plan, run_shard

__all__ = ["finalize", "plan", "run_shard"]
