"""The contract that every adapter must keep, this library's, a reader's or PEFT's: `check(adapter) -> Report`.

```python
report = al.contract.check(al.DoRA(r=4, alpha=6))
print(report)                # a table: check, status, figure, limit, note
report.raise_if_failed()     # in a test of your own
```
"""

from .checks import CHECKS, Check, check
from .report import ContractError, Report, Result
from .subject import Foreign

__all__ = ["CHECKS", "Check", "ContractError", "Foreign", "Report", "Result", "check"]
