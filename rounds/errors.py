"""What may be refused, as a tree. `api/problems.py` turns each into a problem document.

FedserverError                     (models_app.errors, the root of the house)
├── NotAuthenticated               401
│   ├── TokenInvalid · TokenExpired · ChallengeExpired · SignatureInvalid
├── NotAllowed                     403
│   ├── JoinCodeInvalid · ParticipantSuspended · ParticipantRevoked · SdkUnsupported
├── NotFound                       404
│   └── AssignmentNotFound · ParticipantNotFound · BlobNotFound · EvaluationNotFound
├── Conflict                       409
│   ├── RoundClosed · UpdateConflict · IllegalMove · ModelBusy
│   └── EvaluationClosed · EvaluationOpen · ReportConflict
├── UploadRefused
│   ├── BodySilent 408 · LengthRequired 411 · TooLarge 413 · UnsupportedBody 415
│   └── UpdateInvalid 422 · NoSpace 503
├── RulesInvalid                   400   a run's setting that makes no sense
└── ReportInvalid                  422   of a federated evaluation
"""

from models_app.errors import FedserverError


class NotAuthenticated(FedserverError):
    status, code, title = 401, "not_authenticated", "Not signed in"


class TokenInvalid(NotAuthenticated):
    code, title = "token_invalid", "Unknown token"


class TokenExpired(NotAuthenticated):
    code, title = "token_expired", "Token expired"


class ChallengeExpired(NotAuthenticated):
    code, title = "challenge_expired", "Challenge expired or used"


class SignatureInvalid(NotAuthenticated):
    code, title = "signature_invalid", "Signature does not verify"


class NotAllowed(FedserverError):
    status, code, title = 403, "not_allowed", "Not allowed"


class JoinCodeInvalid(NotAllowed):
    code, title = "join_code_invalid", "Join code not valid"


class ParticipantSuspended(NotAllowed):
    code, title = "participant_suspended", "Participant suspended"


class ParticipantRevoked(NotAllowed):
    code, title = "participant_revoked", "Participant revoked"


class SdkUnsupported(NotAllowed):
    code, title = "sdk_unsupported", "Versions do not fit"


class NotFound(FedserverError):
    status, code, title = 404, "not_found", "Not found"


class AssignmentNotFound(NotFound):
    code, title = "assignment_not_found", "No such assignment"


class ParticipantNotFound(NotFound):
    code, title = "participant_not_found", "No such participant"


class BlobNotFound(NotFound):
    code, title = "blob_not_found", "No such blob"


class EvaluationNotFound(NotFound):
    code, title = "evaluation_not_found", "No such evaluation"


class Conflict(FedserverError):
    status, code, title = 409, "conflict", "Conflict"


class RoundClosed(Conflict):
    code, title = "round_closed", "The round takes no more updates"


class UpdateConflict(Conflict):
    code, title = "update_conflict", "Another update was accepted for this assignment"


class IllegalMove(Conflict):
    code, title = "illegal_move", "Not possible in this state"


class ModelBusy(Conflict):
    code, title = "model_busy", "Another run trains this model"


class EvaluationClosed(Conflict):
    code, title = "evaluation_closed", "The evaluation takes no more reports"


class EvaluationOpen(Conflict):
    code, title = "evaluation_open", "The version is being evaluated already"


class ReportConflict(Conflict):
    code, title = "report_conflict", "Another report was counted for this evaluation"


class UploadRefused(FedserverError):
    status, code, title = 400, "upload_refused", "Upload refused"


class NoSpace(UploadRefused):
    status, code, title = 503, "no_space", "The server's disk is almost full"


class BodySilent(UploadRefused):
    status, code, title = 408, "body_silent", "The body stopped coming"


class LengthRequired(UploadRefused):
    status, code, title = 411, "length_required", "Content-Length required"


class TooLarge(UploadRefused):
    status, code, title = 413, "too_large", "Body too large"


class UnsupportedBody(UploadRefused):
    status, code, title = 415, "unsupported_body", "Body of the wrong kind"


class UpdateInvalid(UploadRefused):
    status, code, title = 422, "update_invalid", "Update not valid"


class RulesInvalid(FedserverError):
    code, title = "rules_invalid", "Rules not valid"


class ReportInvalid(FedserverError):
    status, code, title = 422, "report_invalid", "Report not valid"
