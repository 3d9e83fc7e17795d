"""Programs that the storage benchmark is measured against, written straight down."""
