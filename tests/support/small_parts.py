"""htcjob that writes its records in many small parts, and puts few of them together already."""

from htcjob.ledger import ledger

ledger.FIRST_FLUSH_S = ledger.LONGEST_FLUSH_S = 0.2
ledger.SCATTERED_PARTS = 4

if __name__ == "__main__":
    from htcjob.cli.main import main

    main()
