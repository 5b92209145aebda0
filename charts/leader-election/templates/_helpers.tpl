{{/* What the release's objects begin with; 40 characters, so that suffixes fit into 63. A release's name may have dots, which a
Service's may not. */}}
{{- define "leader-election.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $chart $release -}}
{{- $release | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" $release $chart | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "leader-election.webhook.name" -}}{{ include "leader-election.fullname" . }}-webhook{{- end -}}
{{- define "leader-election.controller.name" -}}{{ include "leader-election.fullname" . }}-controller{{- end -}}

{{/* The lock of the controller's own election. The dot keeps it apart from every Service's Endpoints. */}}
{{- define "leader-election.controller.lock" -}}{{ include "leader-election.controller.name" . }}.leader{{- end -}}

{{/* The Secret that holds the webhook's certificate. */}}
{{- define "leader-election.secret" -}}
{{- if eq .Values.certificates.mode "secret" -}}
{{- .Values.certificates.secret.name -}}
{{- else -}}
{{- include "leader-election.webhook.name" . }}-tls
{{- end -}}
{{- end -}}

{{/* The host names of the webhook's certificate, as a JSON list. */}}
{{- define "leader-election.webhook.hosts" -}}
{{- $name := include "leader-election.webhook.name" . -}}
{{- $hosts := list (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s" $name .Release.Namespace) $name -}}
{{- with .Values.webhook.url -}}
{{- $hosts = prepend $hosts (urlParse .).host -}}
{{- end -}}
{{- $plain := list -}}
{{- range $hosts -}}
{{- $plain = append $plain (regexReplaceAll "^\\[?([^\\]]*?)\\]?(:[0-9]+)?$" . "${1}") -}}
{{- end -}}
{{- toJson $plain -}}
{{- end -}}

{{/* Whether the controller has anything to do. */}}
{{- define "leader-election.controller.enabled" -}}
{{- if or (eq .Values.certificates.mode "self") (eq .Values.rbac.mode "managed") -}}true{{- end -}}
{{- end -}}

{{/* Whether the cluster has policies (ValidatingAdmissionPolicy v1). */}}
{{- define "leader-election.policies" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}true{{- end -}}
{{- end -}}

{{/* The user name of the controller's service account; of nobody, when there is no controller. */}}
{{- define "leader-election.controller.user" -}}
{{- if include "leader-election.controller.enabled" . -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "leader-election.controller.name" . }}
{{- end -}}
{{- end -}}

{{/* Namespaces whose Leases are the cluster's own: nothing is injected and nothing created there. A CEL list. */}}
{{- define "leader-election.left-out" -}}['kube-system', 'kube-node-lease']{{- end -}}

{{/* Call with (list . COMPONENT), a component being webhook, controller, or empty for what is the release's. */}}
{{- define "leader-election.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "leader-election.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "leader-election.selector" . | fromYaml -}}
{{- $own = merge $own (dict
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
) -}}
{{- toYaml (merge $own $root.Values.commonLabels) -}}
{{- end -}}

{{/* Name, labels and annotations of an object. Call with (list . COMPONENT NAME [ANNOTATIONS [LABELS]]), the last two its own. */}}
{{- define "leader-election.metadata" -}}
{{- $root := index . 0 -}}
{{- $annotations := dict -}}
{{- if gt (len .) 3 -}}{{- $annotations = index . 3 -}}{{- end -}}
{{- $annotations = merge $annotations $root.Values.commonAnnotations -}}
{{- $labels := include "leader-election.labels" (list $root (index . 1)) | fromYaml -}}
{{- if gt (len .) 4 -}}{{- $labels = merge $labels (index . 4) -}}{{- end -}}
name: {{ index . 2 }}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The whole reference of an image. Call with (list . webhook|elector). */}}
{{- define "leader-election.image" -}}
{{- $root := index . 0 -}}
{{- $which := index . 1 -}}
{{- $image := $root.Values.image -}}
{{- $own := index $image $which -}}
{{- $name := $own.repository | default (printf "%s-%s" (required (include "leader-election.no-image" $root) $image.repository) $which) -}}
{{- if $own.digest -}}
{{- printf "%s@%s" $name $own.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "leader-election.no-image" }}

image.repository is not set. There is no public image yet: build and push the two images from a checkout of the project,

  make images REPOSITORY=registry.example.com/team/leader-election PUSH=1

and name them to helm:

  --set image.repository=registry.example.com/team/leader-election
{{ end -}}

{{/* Seconds of a duration of one unit, such as 720h. */}}
{{- define "leader-election.seconds" -}}
{{- $unit := dict "s" 1 "m" 60 "h" 3600 -}}
{{- mul (regexFind "^[0-9]+" .) (get $unit (regexFind "[a-z]$" .)) -}}
{{- end -}}

{{/* A quantity such as 100m or 64Mi as a plain number. A number in YAML may come as 6.7108864e+07. */}}
{{- define "leader-election.quantity" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+(e[+-][0-9]+)?" $text -}}
{{- $suffixes := dict "" 1.0 "n" 0.000000001 "u" 0.000001 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $suffixes = merge $suffixes (dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0) -}}
{{- $suffixes = merge $suffixes (dict "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0) -}}
{{- mulf (float64 $number) (get $suffixes (trimPrefix $number $text)) -}}
{{- end -}}
