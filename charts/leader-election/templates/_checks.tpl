{{/* Values that a schema cannot judge, since they contradict each other. Each message says what to do. */}}
{{- define "leader-election.checks" -}}
{{- $values := .Values -}}
{{- $certificates := $values.certificates -}}
{{- if and (eq $values.rbac.mode "managed") (not (include "leader-election.policies" .)) -}}
{{- fail (printf "\n\nrbac.mode is managed, which needs Kubernetes 1.30 or newer; this is %s. Set it to static, and list namespaces and service accounts in rbac.static, or to none and bind the rights yourself (docs/install.md)." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq $values.rbac.mode "static") (not $values.rbac.static) -}}
{{- fail "\n\nrbac.mode is static, but rbac.static is empty. List who may stand for election: --set rbac.static[0].namespace=NAMESPACE --set rbac.static[0].serviceAccounts[0]=default" -}}
{{- end -}}
{{- if and $values.rbac.static (ne $values.rbac.mode "static") -}}
{{- fail (printf "\n\nrbac.static is set, but rbac.mode is %s. Set rbac.mode to static, or leave rbac.static out." $values.rbac.mode) -}}
{{- end -}}
{{- if eq $certificates.mode "secret" -}}
{{- if not (and $certificates.secret.name $certificates.secret.caBundle) -}}
{{- fail "\n\ncertificates.mode is secret: certificates.secret.name and certificates.secret.caBundle (PEM, of the authority that signed it) are needed." -}}
{{- end -}}
{{- else if or $certificates.secret.name $certificates.secret.caBundle -}}
{{- fail (printf "\n\ncertificates.secret is set, but certificates.mode is %s. Set certificates.mode to secret, or leave certificates.secret out." $certificates.mode) -}}
{{- end -}}
{{- if and $certificates.certManager.issuerRef (ne $certificates.mode "cert-manager") -}}
{{- fail (printf "\n\ncertificates.certManager.issuerRef is set, but certificates.mode is %s. Set certificates.mode to cert-manager, or leave it out." $certificates.mode) -}}
{{- end -}}
{{- $certificate := include "leader-election.seconds" $certificates.self.certificateLifetime | int -}}
{{- if lt (include "leader-election.seconds" $certificates.self.caLifetime | int) (mul 3 $certificate | int) -}}
{{- fail (printf "\n\ncertificates.self.caLifetime is %s, allowed is at least three times certificates.self.certificateLifetime, which is %s: an authority has to outlive what it signed." $certificates.self.caLifetime $certificates.self.certificateLifetime) -}}
{{- end -}}
{{- if gt (mul 4 (include "leader-election.seconds" $certificates.self.settle) | int) $certificate -}}
{{- fail (printf "\n\ncertificates.self.settle is %s, allowed is at most a quarter of certificates.self.certificateLifetime, which is %s." $certificates.self.settle $certificates.self.certificateLifetime) -}}
{{- end -}}
{{- if and $values.webhook.hostNetwork (eq (int $values.webhook.port) 10250) -}}
{{- fail "\n\nwebhook.hostNetwork is true and webhook.port is 10250, which is the kubelet's on every node. Set another one, such as --set webhook.port=10260." -}}
{{- end -}}
{{- $fullname := include "leader-election.fullname" . -}}
{{- if not (regexMatch "^[a-z]" $fullname) -}}
{{- fail (printf "\n\nThe objects of this release would be called %s, but the name of a Service begins with a letter. Set fullnameOverride, or call the release something else." $fullname) -}}
{{- end -}}
{{- range $kind := list "cpu" "memory" -}}
{{- $request := get $values.elector.resources.requests $kind -}}
{{- $limit := get $values.elector.resources.limits $kind -}}
{{- range $bound, $text := dict "requests" $request "limits" $limit -}}
{{- if le (include "leader-election.quantity" $text | float64) 0.0 -}}
{{- fail (printf "\n\nelector.resources.%s.%s is %v, allowed is a quantity above 0, such as 100m or 64Mi." $bound $kind $text) -}}
{{- end -}}
{{- end -}}
{{- if gt (include "leader-election.quantity" $request | float64) (include "leader-election.quantity" $limit | float64) -}}
{{- fail (printf "\n\nelector.resources.requests.%s is %v, allowed is at most elector.resources.limits.%s, which is %v." $kind $request $kind $limit) -}}
{{- end -}}
{{- end -}}
{{- $listed := dict -}}
{{- range $values.rbac.static -}}
{{- if hasKey $listed .namespace -}}
{{- fail (printf "\n\nrbac.static lists the namespace %s twice. Put its service accounts and elections into one entry." .namespace) -}}
{{- end -}}
{{- $_ := set $listed .namespace true -}}
{{- end -}}
{{- range $key, $_ := merge (dict) $values.podAnnotations $values.commonAnnotations -}}
{{- if hasPrefix "leader-election/" $key -}}
{{- fail (printf "\n\n%s cannot be an annotation of the release's own pods: the webhook cannot wait for itself." $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
