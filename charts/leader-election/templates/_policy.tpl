{{/* The binding of a policy that denies. Call with (list . COMPONENT NAME). */}}
{{- define "leader-election.policy.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "leader-election.metadata" . | nindent 2 }}
spec:
  policyName: {{ index . 2 }}
  validationActions: [Deny]
{{- end -}}

{{/* What a policy for the controller's account begins with. Call with (list . NAME GROUP RESOURCE OPERATIONS). */}}
{{- define "leader-election.controller.policy" -}}
{{- $root := index . 0 -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  {{- include "leader-election.metadata" (list $root "controller" (index . 1)) | nindent 2 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [{{ index . 2 | quote }}]
        apiVersions: [v1]
        operations: {{ index . 4 | toJson }}
        resources: [{{ index . 3 }}]
  matchConditions:
    - name: by-the-controller
      expression: request.userInfo.username == '{{ include "leader-election.controller.user" $root }}'
{{- end -}}
