"""What platforms really set, and how variables are refused."""

import pytest

from htcjob.environment.context import read_context
from htcjob.environment.variables import CREDENTIAL_VARIABLES
from htcjob.errors import ConfigurationError

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2IifQ.planted-bearer-signature"
OPAQUE = "planted-opaque-token-0001"  # No pattern finds this one; it must be known.

ORDINARY = {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8", "HOSTNAME": "worker-0"}

RESCALE = {
    **ORDINARY,
    "RESCALE_HTC_PROJECT_ID": "9f2f5c9e-61a3-4a44-9a9e-0d9f3a6b1c11",
    "RESCALE_HTC_TASK_ID": "b7c6f7c2-32a5-4f5c-8a53-111111111111",
    "RESCALE_HTC_REGION": "AWS_US_EAST_2",
    "RESCALE_HTC_BEARER_TOKEN": TOKEN,
    "RESCALE_PROJECT_ID": "9f2f5c9e-61a3-4a44-9a9e-0d9f3a6b1c11",
    "RESCALE_TASK_ID": "b7c6f7c2-32a5-4f5c-8a53-111111111111",
    "RESCALE_JOB_ID": "0d1c2b3a-0000-4000-8000-123456789abc:12",
    "PROJECT_SHARED_FOLDER": "projects/9f2f5c9e/shared/",
    "TASK_SHARED_FOLDER": "projects/9f2f5c9e/tasks/b7c6f7c2/",
    "AWS_BATCH_JOB_ARRAY_INDEX": "12",
    "AWS_BATCH_JOB_ATTEMPT": "1",
    "AWS_BATCH_JOB_ID": "6c1f6d1a-aaaa-4bbb-8ccc-dddddddddddd:12",
    "AWS_BATCH_CE_NAME": "rescale-ce",
    "AWS_BATCH_JQ_NAME": "rescale-queue",
    "BATCH_JOB_ARRAY_SIZE": "1000",
}
AWS = {
    **ORDINARY,
    "AWS_BATCH_JOB_ARRAY_INDEX": "0",
    "AWS_BATCH_JOB_ARRAY_SIZE": "10",
    "AWS_BATCH_JOB_ATTEMPT": "3",
    "AWS_BATCH_JOB_ID": "6c1f6d1a-aaaa-4bbb-8ccc-dddddddddddd:0",
    "AWS_BATCH_CE_NAME": "ce",
    "AWS_BATCH_JQ_NAME": "queue",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1234",
    "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
}
GOOGLE = {
    **ORDINARY,
    "BATCH_TASK_INDEX": "7",
    "BATCH_TASK_COUNT": "8",
    "BATCH_TASK_RETRY_ATTEMPT": "2",
    "BATCH_JOB_ID": "faces",
    "BATCH_JOB_UID": "faces-12345678-0",
    "BATCH_NODE_INDEX": "3",
    "BATCH_NODE_COUNT": "4",
    "BATCH_HOSTS_FILE": "/etc/cloudbatch-taskgroup-hosts",
}
KUBERNETES = {
    **ORDINARY,
    "JOB_COMPLETION_INDEX": "3",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "HTCJOB_ARRAY_SIZE": "5",
}
SLURM = {
    **ORDINARY,
    "SLURM_JOB_ID": "189",
    "SLURM_ARRAY_JOB_ID": "187",
    "SLURM_ARRAY_TASK_ID": "16",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "18",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "5",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_JOB_END_TIME": "1767225600",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1",
}
SLURM_SINGLE = {**ORDINARY, "SLURM_JOB_ID": "190", "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "2"}
SGE = {
    **ORDINARY,
    "JOB_ID": "4711",
    "JOB_NAME": "faces",
    "SGE_TASK_ID": "7",
    "SGE_TASK_FIRST": "1",
    "SGE_TASK_LAST": "9",  # -t 1-9:3 is 1, 4, 7
    "SGE_TASK_STEPSIZE": "3",
    "RESTARTED": "1",
    "NSLOTS": "1",
}
SGE_SINGLE = {
    **SGE,
    "SGE_TASK_ID": "undefined",
    "SGE_TASK_FIRST": "undefined",
    "SGE_TASK_LAST": "undefined",
    "SGE_TASK_STEPSIZE": "undefined",
    "RESTARTED": "0",
}
PBS = {
    **ORDINARY,
    "PBS_ARRAY_INDEX": "4",
    "PBS_ARRAY_ID": "1234[].server",
    "PBS_JOBID": "1234[4].server",
    "PBS_JOBNAME": "faces",
    "HTCJOB_ARRAY_SIZE": "5",
}
TORQUE = {**ORDINARY, "PBS_ARRAYID": "4", "PBS_JOBID": "98[4].host", "HTCJOB_ARRAY_SIZE": "5"}
LSF = {
    **ORDINARY,
    "LSB_JOBID": "555",
    "LSB_JOBINDEX": "10",
    "LSB_JOBINDEX_END": "10",
    "LSB_JOBINDEX_STEP": "1",
    "LSB_JOBNAME": "faces[10]",
    "HTCJOB_ARRAY_SIZE": "10",
}
LSF_SINGLE = {**ORDINARY, "LSB_JOBID": "556", "LSB_JOBINDEX": "0"}
FLUX = {
    **ORDINARY,
    "FLUX_JOB_CC": "2",
    "FLUX_JOB_ID": "ƒ3ETxsR9H",
    "FLUX_JOB_SIZE": "1",
    "FLUX_TASK_RANK": "0",
    "HTCJOB_ARRAY_SIZE": "3",
}
NOMAD = {
    **ORDINARY,
    "NOMAD_ALLOC_INDEX": "1",
    "NOMAD_ALLOC_ID": "5b9e2f0c-7c4e-7d43-8a0c-3f8d8c7b6a5e",
    "NOMAD_META_RUN": "a",
    "HTCJOB_ARRAY_SIZE": "2",
}
KUBERNETES_COUNTED = {
    **KUBERNETES,
    "JOB_INDEX_FAILURE_COUNT": "2",
    "JOB_INDEX_IGNORED_FAILURE_COUNT": "1",
}
HTCONDOR = {**ORDINARY, "HTC_INDEX": "0", "HTC_COUNT": "40", "_CONDOR_SLOT": "slot1"}
PJM = {**ORDINARY, "PJM_BULKNUM": "9", "PJM_JOBID": "77", "HTCJOB_ARRAY_SIZE": "10"}
OURS = {**ORDINARY, "HTCJOB_ARRAY_INDEX": "5", "HTCJOB_ARRAY_SIZE": "6", "HTCJOB_ATTEMPT": "4"}

SECRETS = {name: f"planted in {name}" for name in CREDENTIAL_VARIABLES}

FULL_SETS = [
    # variables, platform, index, size, attempt, job id
    pytest.param(ORDINARY, "none", 0, 1, 1, None, id="nothing"),
    pytest.param(OURS, "htcjob", 5, 6, 4, None, id="ours"),
    pytest.param(RESCALE, "rescale", 12, 1000, 1, RESCALE["RESCALE_JOB_ID"], id="rescale"),
    pytest.param(AWS, "aws-batch", 0, 10, 3, AWS["AWS_BATCH_JOB_ID"], id="aws"),
    pytest.param(GOOGLE, "google-batch", 7, 8, 3, "faces", id="google"),
    pytest.param(KUBERNETES, "kubernetes", 3, 5, 1, None, id="kubernetes"),
    pytest.param(KUBERNETES_COUNTED, "kubernetes", 3, 5, 4, None, id="kubernetes-counted"),
    pytest.param(SLURM, "slurm", 3, 5, 2, "189", id="slurm"),
    pytest.param(SLURM_SINGLE, "none", 0, 1, 3, "190", id="slurm-single"),
    pytest.param(SGE, "sge", 2, 3, 2, "4711", id="sge"),
    pytest.param(SGE_SINGLE, "none", 0, 1, 1, "4711", id="sge-single"),
    pytest.param(PBS, "pbs", 4, 5, 1, "1234[4].server", id="pbs"),
    pytest.param(TORQUE, "torque", 4, 5, 1, "98[4].host", id="torque"),
    pytest.param(LSF, "lsf", 9, 10, 1, "555", id="lsf"),
    pytest.param(LSF_SINGLE, "none", 0, 1, 1, "556", id="lsf-single"),
    pytest.param(FLUX, "flux", 2, 3, 1, "ƒ3ETxsR9H", id="flux"),
    pytest.param(NOMAD, "nomad", 1, 2, 1, NOMAD["NOMAD_ALLOC_ID"], id="nomad"),
    pytest.param(HTCONDOR, "htcondor", 0, 40, 1, None, id="htcondor"),
    pytest.param(PJM, "pjm", 9, 10, 1, "77", id="pjm"),
]


def without(variables, *names):
    return {name: value for name, value in variables.items() if name not in names}


def refused(variables, **flags):
    """Return the message with which these variables are refused; it must be one line."""
    with pytest.raises(ConfigurationError) as caught:
        read_context(variables, flags=flags)
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message
