"""Many files through the same bundles: on one machine with worker processes, on several with Ray.

files ──plan──> tasks ──scheduler──> pool of workers (processes here, or Ray tasks) ──> OUT, report
"""
