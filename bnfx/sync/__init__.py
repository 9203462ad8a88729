"""SyncBatchNorm: BatchNorm whose statistics are those of the batch over all ranks."""
